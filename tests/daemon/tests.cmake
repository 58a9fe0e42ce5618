include(daemon/text_tests.cmake OPTIONAL)
sluice_test(protocol_test
  SOURCES daemon/json_text_test.cc daemon/protocol_test.cc
  LIBS sluice_protocol)
if(TARGET sluice_http)
  sluice_test(http_test
    SOURCES daemon/http_parse_test.cc daemon/stop_matcher_test.cc daemon/choice_sink_test.cc
            daemon/model_registry_test.cc daemon/plan_protocol_test.cc daemon/pressure_test.cc
            daemon/event_bus_test.cc daemon/http_memory_test.cc daemon/residency_log_test.cc daemon/memory_watch_test.cc
    LIBS sluice_http sluice_text)
endif()
