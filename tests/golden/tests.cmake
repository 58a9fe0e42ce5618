# Every model case under tests/golden/public through `sluiced forward`, one ctest each; golden.real needs a fetched
# model and skips aloud without it. Python is $SLUICE_PYTHON, else python3 (tests/tools/py).
if(TARGET sluiced)
  set(SLUICE_PY ${PROJECT_SOURCE_DIR}/tests/tools/py)
  file(GLOB golden_models CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/golden/public/*/model.gguf)
  foreach(model ${golden_models})
    get_filename_component(folder ${model} DIRECTORY)
    get_filename_component(case ${folder} NAME)
    add_test(NAME golden.${case}
      COMMAND ${SLUICE_PY} ${CMAKE_CURRENT_SOURCE_DIR}/e2e/golden_forward.py --sluiced $<TARGET_FILE:sluiced> ${folder})
    set_tests_properties(golden.${case} PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 300 LABELS golden)
  endforeach()

  file(GLOB golden_real CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/golden/real/*.json)
  foreach(golden ${golden_real})
    get_filename_component(case ${golden} NAME_WLE)
    add_test(NAME golden.real.${case}
      COMMAND ${SLUICE_PY} ${CMAKE_CURRENT_SOURCE_DIR}/e2e/golden_real.py --sluiced $<TARGET_FILE:sluiced> ${golden})
    set_tests_properties(golden.real.${case} PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 900 LABELS "golden;model;slow")
  endforeach()
endif()
