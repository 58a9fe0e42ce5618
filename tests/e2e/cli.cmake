# The client against a real daemon and the demo model.
if(TARGET sluiced)
  add_test(NAME cli
    COMMAND ${SLUICE_PY} ${CMAKE_CURRENT_LIST_DIR}/cli_test.py $<TARGET_FILE:sluice> $<TARGET_FILE:sluiced>
            ${PROJECT_SOURCE_DIR}/assets/demo.gguf)
  set_tests_properties(cli PROPERTIES LABELS e2e TIMEOUT 600 SKIP_RETURN_CODE 77)
endif()
