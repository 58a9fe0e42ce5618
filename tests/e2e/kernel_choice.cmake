# A SLUICE_KERNELS that names no variant is an error wherever something is computed.
if(TARGET sluiced AND TARGET sluice-bench)
  add_test(NAME kernel_choice
    COMMAND ${SLUICE_PY} ${CMAKE_CURRENT_LIST_DIR}/kernel_choice_test.py $<TARGET_FILE:sluiced> $<TARGET_FILE:sluice-bench>
            ${PROJECT_SOURCE_DIR}/assets/demo.gguf)
  set_tests_properties(kernel_choice PROPERTIES LABELS e2e TIMEOUT 120)
endif()
