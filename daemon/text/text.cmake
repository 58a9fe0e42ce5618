# Token ids <-> text, messages -> prompt text.
add_library(sluice_text STATIC
  ${CMAKE_CURRENT_LIST_DIR}/byte_level_bpe.cc
  ${CMAKE_CURRENT_LIST_DIR}/chat_template.cc
  ${CMAKE_CURRENT_LIST_DIR}/jinja_call.cc
  ${CMAKE_CURRENT_LIST_DIR}/jinja_evaluate.cc
  ${CMAKE_CURRENT_LIST_DIR}/jinja_filters.cc
  ${CMAKE_CURRENT_LIST_DIR}/jinja_lexer.cc
  ${CMAKE_CURRENT_LIST_DIR}/jinja_methods.cc
  ${CMAKE_CURRENT_LIST_DIR}/jinja_parser.cc
  ${CMAKE_CURRENT_LIST_DIR}/jinja_parser_expressions.cc
  ${CMAKE_CURRENT_LIST_DIR}/jinja_print.cc
  ${CMAKE_CURRENT_LIST_DIR}/jinja_render.cc
  ${CMAKE_CURRENT_LIST_DIR}/jinja_tests.cc
  ${CMAKE_CURRENT_LIST_DIR}/jinja_value.cc
  ${CMAKE_CURRENT_LIST_DIR}/pretokenizer.cc
  ${CMAKE_CURRENT_LIST_DIR}/python_text.cc
  ${CMAKE_CURRENT_LIST_DIR}/sentencepiece.cc
  ${CMAKE_CURRENT_LIST_DIR}/token_table.cc
  ${CMAKE_CURRENT_LIST_DIR}/tokenizer.cc
  ${CMAKE_CURRENT_LIST_DIR}/unicode.cc)
sluice_size_warnings(sluice_text)
target_link_libraries(sluice_text
  PUBLIC sluice_scheduler Boost::json
  PRIVATE PkgConfig::pcre2 PkgConfig::utf8proc PkgConfig::xxhash)
# gcc 12 sees overlapping copies in "literal" + std::string (GCC bug 105651).
target_compile_options(sluice_text PRIVATE $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>)
