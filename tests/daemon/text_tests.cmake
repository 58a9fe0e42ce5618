sluice_test(text_test
  SOURCES daemon/text_tokenizer_test.cc daemon/text_sentencepiece_test.cc daemon/text_unicode_test.cc
          daemon/text_template_test.cc daemon/text_template_limits_test.cc
  LIBS sluice_text)
