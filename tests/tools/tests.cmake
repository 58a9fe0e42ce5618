# The repository about itself: forbidden includes, headers that do not stand alone, files that do not belong.
set(SLUICE_PY ${PROJECT_SOURCE_DIR}/tests/tools/py)
add_test(NAME layers COMMAND ${SLUICE_PY} ${CMAKE_CURRENT_SOURCE_DIR}/tools/layers.py ${PROJECT_SOURCE_DIR})
add_test(NAME layers.self_test COMMAND ${SLUICE_PY} ${CMAKE_CURRENT_SOURCE_DIR}/tools/layers.py --self-test)
add_test(NAME repo COMMAND ${SLUICE_PY} ${CMAKE_CURRENT_SOURCE_DIR}/tools/repo_check.py ${PROJECT_SOURCE_DIR})
add_test(NAME repo.self_test COMMAND ${SLUICE_PY} ${CMAKE_CURRENT_SOURCE_DIR}/tools/repo_check.py --self-test)

# check-headers: each header compiles as the only include of a file. Not part of `all`; the test builds it.
file(GLOB_RECURSE sluice_headers CONFIGURE_DEPENDS RELATIVE ${PROJECT_SOURCE_DIR}
  ${PROJECT_SOURCE_DIR}/base/*.h ${PROJECT_SOURCE_DIR}/storage/*.h ${PROJECT_SOURCE_DIR}/kernels/*.h
  ${PROJECT_SOURCE_DIR}/scheduler/*.h ${PROJECT_SOURCE_DIR}/daemon/*.h ${PROJECT_SOURCE_DIR}/client/*.h
  ${PROJECT_SOURCE_DIR}/tests/support/*.h)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
  list(FILTER sluice_headers EXCLUDE REGEX "^kernels/arm/(core|matmul|unpack|vector)")
else()
  list(FILTER sluice_headers EXCLUDE REGEX "^kernels/x86/(matmul|unpack|vector)")
endif()
set(alone_files)
foreach(header ${sluice_headers})
  string(REPLACE "/" "_" name ${header})
  set(file ${CMAKE_BINARY_DIR}/check_headers/${name}.cc)
  file(CONFIGURE OUTPUT ${file} CONTENT "#include \"${header}\"\n#include \"${header}\"\n")
  list(APPEND alone_files ${file})
  # Headers that are only for files of one instruction set get what those files get.
  if(header MATCHES "^kernels/x86/.*(avx512|amx)")
    set_source_files_properties(${file} PROPERTIES COMPILE_OPTIONS
      "-mavx2;-mfma;-mf16c;-mavx512f;-mavx512bw;-mavx512vl;-mavx512dq")
  elseif(header MATCHES "^kernels/x86/")
    set_source_files_properties(${file} PROPERTIES COMPILE_OPTIONS "-mavx2;-mfma;-mf16c")
  endif()
endforeach()
add_library(check-headers OBJECT EXCLUDE_FROM_ALL ${alone_files})
target_compile_options(check-headers PRIVATE -O0 -g0 -Wall -Wextra -Werror -Wno-unused-function -Wno-unused-const-variable)
target_compile_definitions(check-headers PRIVATE SLUICE_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
target_include_directories(check-headers PRIVATE ${PROJECT_SOURCE_DIR})
target_link_libraries(check-headers PRIVATE sluice_scheduler Boost::headers spdlog::spdlog fmt::fmt CLI11::CLI11
  PkgConfig::tomlplusplus PkgConfig::pcre2 PkgConfig::utf8proc PkgConfig::xxhash PkgConfig::libedit GTest::gtest)
add_test(NAME headers COMMAND ${CMAKE_COMMAND} --build ${CMAKE_BINARY_DIR} --target check-headers)
set_tests_properties(headers PROPERTIES LABELS slow TIMEOUT 900 RUN_SERIAL ON)

# asan-tests: every test binary of this build, without daemon and client. scripts/test.sh builds it in build/asan; the
# test `asan` of the release build then runs it from there, so that one summary covers both.
get_property(targets DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR} PROPERTY BUILDSYSTEM_TARGETS)
list(FILTER targets INCLUDE REGEX "_tests?$")
add_custom_target(asan-tests DEPENDS ${targets})
if(NOT CMAKE_CXX_FLAGS MATCHES "-fsanitize")
  add_test(NAME asan COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/tools/asan.sh ${PROJECT_SOURCE_DIR}/build/asan)
  set_tests_properties(asan PROPERTIES SKIP_RETURN_CODE 77 LABELS slow TIMEOUT 900)
endif()
