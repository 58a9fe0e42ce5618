sluice_test(storage_tests
  SOURCES storage/budget_test.cc storage/read_control_test.cc storage/expert_cache_test.cc storage/file_test.cc
          storage/fill_share_test.cc storage/gguf_reader_test.cc storage/slice_index_test.cc
          storage/slice_store_test.cc
  LIBS sluice_storage fmt::fmt)
sluice_test(model_loader_tests
  SOURCES scheduler/model_loader_test.cc
  LIBS sluice_scheduler fmt::fmt)

# The corpus of malformed models through `sluiced check`.
if(TARGET sluiced)
  add_test(NAME check_corpus
    COMMAND ${PROJECT_SOURCE_DIR}/tests/tools/py ${CMAKE_CURRENT_SOURCE_DIR}/e2e/check_corpus.py
            --sluiced $<TARGET_FILE:sluiced> --seed 1 --seed 2)
  add_test(NAME check_corpus.bases
    COMMAND ${PROJECT_SOURCE_DIR}/tests/tools/py ${CMAKE_CURRENT_SOURCE_DIR}/e2e/check_corpus.py
            --sluiced $<TARGET_FILE:sluiced> --seed 3
            --base ${CMAKE_CURRENT_SOURCE_DIR}/golden/public/qwen2-tiny-untied-q4_0/model.gguf
            --base ${CMAKE_CURRENT_SOURCE_DIR}/golden/public/qwen3-tiny-tied/model.gguf)
  set_tests_properties(check_corpus check_corpus.bases PROPERTIES LABELS e2e TIMEOUT 600)
endif()
