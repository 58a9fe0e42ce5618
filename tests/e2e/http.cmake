# The HTTP side of a real daemon: its API, abuse, and unmodified clients.
if(TARGET sluiced)
  foreach(name http_api http_abuse openai_clients)
    add_test(NAME ${name}
      COMMAND ${SLUICE_PY} ${CMAKE_CURRENT_LIST_DIR}/${name}_test.py $<TARGET_FILE:sluiced>
              ${PROJECT_SOURCE_DIR}/assets/demo.gguf)
    # Alone: they measure how fast a cancel takes effect.
    set_tests_properties(${name} PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 300 LABELS e2e RUN_SERIAL TRUE)
  endforeach()
endif()
# Faults of the disk and of the model's file.
if(TARGET sluiced)
  add_test(NAME bad_days
    COMMAND ${SLUICE_PY} ${CMAKE_CURRENT_LIST_DIR}/bad_days_test.py $<TARGET_FILE:sluiced> ${PROJECT_SOURCE_DIR}/assets/demo.gguf)
  set_tests_properties(bad_days PROPERTIES TIMEOUT 300 LABELS e2e RUN_SERIAL TRUE)
endif()
# The live budget, over HTTP and with the client.
if(TARGET sluiced AND TARGET sluice)
  foreach(name budget watch)
  add_test(NAME ${name}
    COMMAND ${SLUICE_PY} ${CMAKE_CURRENT_LIST_DIR}/${name}_test.py $<TARGET_FILE:sluiced>
            ${PROJECT_SOURCE_DIR}/assets/demo.gguf $<TARGET_FILE:sluice>)
  set_tests_properties(${name} PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 300 LABELS e2e RUN_SERIAL TRUE)
  endforeach()
endif()
