# Several clients and several models at a time.
if(TARGET sluiced AND TARGET sluice)
  add_test(NAME serving
    COMMAND ${SLUICE_PY} ${CMAKE_CURRENT_LIST_DIR}/serving_test.py $<TARGET_FILE:sluiced>
            ${PROJECT_SOURCE_DIR}/assets/demo.gguf $<TARGET_FILE:sluice>)
  set_tests_properties(serving PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 600 LABELS e2e RUN_SERIAL TRUE)
endif()
