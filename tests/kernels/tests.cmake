sluice_test(kernels_tests
  SOURCES
    kernels/dequant_test.cc kernels/math_test.cc kernels/components_test.cc kernels/matmul_test.cc
    kernels/elementwise_test.cc kernels/attention_test.cc kernels/dispatch_test.cc
  LIBS sluice_kernels)

# Sanitizers add weak symbols of their own.
function(sluice_isa_symbols_test name room at_least)
  add_test(NAME ${name}
    COMMAND ${CMAKE_COMMAND} -DNM=${CMAKE_NM} -DROOM=${room} -DAT_LEAST=${at_least}
            "-DOBJECTS=$<JOIN:$<TARGET_OBJECTS:sluice_kernels>,,>"
            -P ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/isa_symbols.cmake)
endfunction()
if(NOT CMAKE_CXX_FLAGS MATCHES "fsanitize")
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
    sluice_isa_symbols_test(Kernels.X86ObjectsHaveNoWeakSymbols x86 10)
    # What this machine cannot run is cross-built and emulated.
    add_test(NAME Kernels.NeonUnderQemu
      COMMAND ${CMAKE_CURRENT_LIST_DIR}/neon_qemu.sh ${PROJECT_SOURCE_DIR} ${CMAKE_BINARY_DIR}/aarch64)
    set_tests_properties(Kernels.NeonUnderQemu PROPERTIES SKIP_RETURN_CODE 77 LABELS "cross;slow" TIMEOUT 900
      PROCESSORS 2)
  elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
    sluice_isa_symbols_test(Kernels.ArmObjectsHaveNoWeakSymbols arm 8)
  endif()
endif()
