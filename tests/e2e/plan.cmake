# What a budget would buy, asked over HTTP and with the client.
if(TARGET sluiced)
  add_test(NAME plan
    COMMAND ${SLUICE_PY} ${CMAKE_CURRENT_LIST_DIR}/plan_test.py $<TARGET_FILE:sluiced> $<TARGET_FILE:sluice>
            ${PROJECT_SOURCE_DIR}/assets/demo.gguf)
  set_tests_properties(plan PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 300 LABELS e2e RUN_SERIAL TRUE)
endif()
