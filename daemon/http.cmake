# The HTTP side of sluiced, without its main(): linked by the daemon and by the tests.
add_library(sluice_http STATIC
  answer.cc app.cc budget_control.cc choice_sink.cc event_bus.cc generation_answer.cc generation_job.cc http_memory.cc http_parse.cc
  http_session.cc measurements.cc memory_watch.cc model_loading.cc model_registry.cc model_store.cc model_text.cc pressure.cc random_id.cc
  residency_log.cc
  routes.cc routes_budget.cc routes_events.cc routes_native.cc routes_openai.cc routes_plan.cc routes_residency.cc
  routes_text.cc server.cc sse.cc stop_matcher.cc worker.cc)
sluice_size_warnings(sluice_http)
target_link_libraries(sluice_http PUBLIC sluice_protocol sluice_scheduler PRIVATE sluice_text sluice_process)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # GCC bug 105329: inlined std::string assignments are taken for overlapping copies.
  target_compile_options(sluice_http PRIVATE -Wno-restrict)
endif()
