sluice_test(scheduler_tests
  SOURCES
    scheduler/driver_probe_test.cc
    scheduler/engine_properties_test.cc
    scheduler/pin_shares_test.cc
    scheduler/run_queue_test.cc
    scheduler/sampler_test.cc
    scheduler/thread_pool_test.cc
  LIBS sluice_scheduler Boost::json)
sluice_test(pass_tests
  SOURCES
    scheduler/pass_test.cc
    scheduler/engine_budget_test.cc
    scheduler/predict_test.cc
    scheduler/streaming_test.cc
  LIBS sluice_scheduler)
