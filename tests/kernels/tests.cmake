# Kernels that no CPU at hand can run, on models of what it lacks; never part of the library.
add_library(kernels_test_tables STATIC kernels/test_tables.cc kernels/amx_model.cc)
sluice_warnings(kernels_test_tables)
target_link_libraries(kernels_test_tables PUBLIC sluice_kernels)
target_compile_options(kernels_test_tables PRIVATE -ffp-contract=off -O3 -fno-math-errno)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
  target_sources(kernels_test_tables PRIVATE kernels/amx_model_matmul.cc kernels/avxvnni_evex.cc)
  get_property(options DIRECTORY ${PROJECT_SOURCE_DIR}/kernels PROPERTY SLUICE_AVX512_OPTIONS)
  set_source_files_properties(kernels/amx_model_matmul.cc PROPERTIES COMPILE_OPTIONS "${options}")
  get_property(options DIRECTORY ${PROJECT_SOURCE_DIR}/kernels PROPERTY SLUICE_AVX2_OPTIONS)
  set_source_files_properties(kernels/avxvnni_evex.cc PROPERTIES
    COMPILE_OPTIONS "${options};-mavx512vl;-mavx512vnni")
endif()

sluice_test(kernels_tests
  SOURCES
    kernels/dequant_test.cc kernels/math_test.cc kernels/components_test.cc kernels/matmul_test.cc kernels/matmul_prompt_test.cc
    kernels/elementwise_test.cc kernels/attention_test.cc kernels/dispatch_test.cc
    kernels/amx_model_test.cc
  LIBS kernels_test_tables sluice_kernels)

# Sanitizers add weak symbols of their own.
function(sluice_isa_symbols_test name room at_least)
  add_test(NAME ${name}
    COMMAND ${CMAKE_COMMAND} -DNM=${CMAKE_NM} -DROOM=${room} -DAT_LEAST=${at_least}
            "-DOBJECTS=$<JOIN:$<TARGET_OBJECTS:sluice_kernels>,,>"
            -P ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/isa_symbols.cmake)
endfunction()
if(NOT CMAKE_CXX_FLAGS MATCHES "fsanitize")
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
    sluice_isa_symbols_test(Kernels.X86ObjectsHaveNoWeakSymbols x86 14)
    # What this machine cannot run is cross-built and emulated.
    add_test(NAME Kernels.NeonUnderQemu
      COMMAND ${CMAKE_CURRENT_LIST_DIR}/neon_qemu.sh ${PROJECT_SOURCE_DIR} ${CMAKE_BINARY_DIR}/aarch64)
    set_tests_properties(Kernels.NeonUnderQemu PROPERTIES SKIP_RETURN_CODE 77 LABELS "cross;slow" TIMEOUT 900
      PROCESSORS 2)
  elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
    sluice_isa_symbols_test(Kernels.ArmObjectsHaveNoWeakSymbols arm 8)
  endif()
endif()
