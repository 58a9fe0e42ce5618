include(daemon/text_tests.cmake OPTIONAL)
