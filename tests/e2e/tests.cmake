# Daemon and client as processes. Python tests: $SLUICE_PYTHON, else python3 (tests/tools/py); 77 = skipped, aloud.
set(SLUICE_PY ${PROJECT_SOURCE_DIR}/tests/tools/py)
add_test(NAME golden.judge COMMAND ${SLUICE_PY} ${CMAKE_CURRENT_SOURCE_DIR}/e2e/forward_lib_test.py)
set_tests_properties(golden.judge PROPERTIES SKIP_RETURN_CODE 77)

if(TARGET sluiced)
  # One model of every family of weight types and graph shapes; ids and lengths are drawn anew each time, seed printed.
  set(public ${CMAKE_CURRENT_SOURCE_DIR}/golden/public)
  foreach(case qwen2-tiny-f32 qwen2-swa qwen2-tiny-untied-f16 qwen2-tiny-untied-bf16 qwen2-tiny-untied-q4_k_m
               qwen2-tiny-untied-q5_1 qwen2-tiny-untied-iq4_xs qwen2-tiny-untied-q2_k qwen3-tiny-untied
               qwen3moe-tiny-q4_k llama-tiny-q8_0)
    add_test(NAME bit_equality.${case}
      COMMAND ${SLUICE_PY} ${CMAKE_CURRENT_SOURCE_DIR}/e2e/bit_equality.py --sluiced $<TARGET_FILE:sluiced>
              ${public}/${case}/model.gguf)
  endforeach()
  add_test(NAME bit_equality.qwen2-rope-dynamic
    COMMAND ${SLUICE_PY} ${CMAKE_CURRENT_SOURCE_DIR}/e2e/bit_equality.py --sluiced $<TARGET_FILE:sluiced> --no-decode
            ${public}/qwen2-rope-dynamic/model.gguf)
  # Beyond 512 tokens, where attention is merged from more than one run of pages.
  add_test(NAME bit_equality.demo
    COMMAND ${SLUICE_PY} ${CMAKE_CURRENT_SOURCE_DIR}/e2e/bit_equality.py --sluiced $<TARGET_FILE:sluiced>
            --vocab 2048 --min-tokens 520 --max-tokens 600 --chunks 61,256 ${PROJECT_SOURCE_DIR}/assets/demo.gguf)
  foreach(case qwen2-tiny-f32 qwen2-swa qwen2-tiny-untied-f16 qwen2-tiny-untied-bf16 qwen2-tiny-untied-q4_k_m
               qwen2-tiny-untied-q5_1 qwen2-tiny-untied-iq4_xs qwen2-tiny-untied-q2_k qwen3-tiny-untied
               qwen3moe-tiny-q4_k llama-tiny-q8_0
               qwen2-rope-dynamic demo)
    set_tests_properties(bit_equality.${case} PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 600 LABELS "e2e;slow")
  endforeach()
endif()

# Other e2e tests stand in files beside this one, each named after what it tests.
file(GLOB e2e_parts CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/*.cmake)
list(REMOVE_ITEM e2e_parts ${CMAKE_CURRENT_LIST_FILE})
foreach(part ${e2e_parts})
  include(${part})
endforeach()
