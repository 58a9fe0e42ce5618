sluice_test(client_tests
  SOURCES client/address_test.cc client/http_reader_test.cc client/link_test.cc
          client/sse_parser_test.cc client/terminal_test.cc
  LIBS sluice_client)
# The process side of sluiced: settings, command line, socket.
sluice_test(daemon_process_tests
  SOURCES daemon/config_test.cc daemon/options_test.cc daemon/socket_test.cc client/base_paths_test.cc
  LIBS sluice_process)
