sluice_test(base_tests SOURCES base/bytes_test.cc base/log_test.cc base/text_escape_test.cc LIBS sluice_base)
