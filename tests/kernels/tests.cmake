sluice_test(kernels_tests
  SOURCES
    kernels/dequant_test.cc kernels/math_test.cc kernels/components_test.cc kernels/matmul_test.cc kernels/matmul_prompt_test.cc
    kernels/elementwise_test.cc kernels/attention_test.cc kernels/dispatch_test.cc
  LIBS sluice_kernels)

# Sanitizers add weak symbols of their own.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64" AND NOT CMAKE_CXX_FLAGS MATCHES "fsanitize")
  add_test(NAME Kernels.X86ObjectsHaveNoWeakSymbols
    COMMAND ${CMAKE_COMMAND} -DNM=${CMAKE_NM} "-DOBJECTS=$<JOIN:$<TARGET_OBJECTS:sluice_kernels>,,>"
            -P ${CMAKE_CURRENT_LIST_DIR}/x86_symbols.cmake)
endif()
