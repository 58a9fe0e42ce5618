# The process side of sluiced: settings, socket, lock, signals; then the binary itself.
add_library(sluice_process STATIC
  budget_file.cc config.cc config_keys.cc config_print.cc config_toml.cc options.cc reload.cc socket.cc)
sluice_size_warnings(sluice_process)
target_link_libraries(sluice_process PUBLIC sluice_base Boost::json CLI11::CLI11 PRIVATE PkgConfig::tomlplusplus)

if(NOT TARGET sluice_http)
  include(${CMAKE_CURRENT_LIST_DIR}/http.cmake OPTIONAL)
endif()
add_executable(sluiced main.cc)
sluice_size_warnings(sluiced)
target_compile_definitions(sluiced PRIVATE
  SLUICE_VERSION="${PROJECT_VERSION}" SLUICE_BUILD_TYPE="$<LOWER_CASE:$<CONFIG>>")
target_link_libraries(sluiced PRIVATE sluice_process sluice_http)
# The offline commands.
foreach(file check_command forward_command safetensors_writer)
  if(EXISTS ${CMAKE_CURRENT_LIST_DIR}/${file}.cc)
    target_sources(sluiced PRIVATE ${file}.cc)
  endif()
endforeach()
