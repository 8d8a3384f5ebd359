# Unit tests, command-line tests, replay of fuzz seeds. Data of third parties is named by the environment variable
# FITQ_TEST_DATA at run time; tests that need it say so and skip when it is not set.
find_package(Python3 3.9 REQUIRED COMPONENTS Interpreter)
pkg_check_modules(CMOCKA REQUIRED IMPORTED_TARGET cmocka)

set(test_env "FITQ_SOURCE_DIR=${PROJECT_SOURCE_DIR}" "FITQ_BINARY=$<TARGET_FILE:fitq>"
             "FITQ_BUILD_DIR=${PROJECT_BINARY_DIR}" "GOMP_SPINCOUNT=1000" "KMP_BLOCKTIME=0")   # as cli/waiting.c

# One program per tests/unit/test_*.c; everything else in that folder is shared by all of them.
file(GLOB unit_all CONFIGURE_DEPENDS tests/unit/*.c)
set(unit_tests ${unit_all})
list(FILTER unit_tests INCLUDE REGEX "/test_[^/]*\\.c$")
set(unit_shared ${unit_all})
list(FILTER unit_shared EXCLUDE REGEX "/test_[^/]*\\.c$")
add_library(fitq_testlib INTERFACE)
if(unit_shared)
  add_library(fitq_testsupport STATIC ${unit_shared})
  target_include_directories(fitq_testsupport PRIVATE include src tests/unit)
  target_link_libraries(fitq_testsupport PUBLIC fitq_static fitq_flags PkgConfig::CMOCKA ${fitq_needs})
  target_link_libraries(fitq_testlib INTERFACE fitq_testsupport)
endif()
target_include_directories(fitq_testlib INTERFACE include src tests/unit)
target_link_libraries(fitq_testlib INTERFACE fitq_static fitq_flags PkgConfig::CMOCKA ${fitq_needs})
foreach(source ${unit_tests})
  get_filename_component(name ${source} NAME_WE)
  add_executable(${name} ${source})
  target_link_libraries(${name} PRIVATE fitq_testlib)
  add_test(NAME unit.${name} COMMAND ${name})
  set_tests_properties(unit.${name} PROPERTIES TIMEOUT 300 ENVIRONMENT "${test_env}")
endforeach()

# Fuzz targets: with libFuzzer, or linked with a driver that replays the seeds.
file(GLOB fuzz_sources CONFIGURE_DEPENDS fuzz/fuzz_*.c)
foreach(source ${fuzz_sources})
  get_filename_component(name ${source} NAME_WE)
  if(FITQ_FUZZ)
    add_executable(${name} ${source})
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  elseif(EXISTS ${PROJECT_SOURCE_DIR}/fuzz/driver.c)
    add_executable(${name} ${source} fuzz/driver.c)
    string(REGEX REPLACE "^fuzz_" "" seeds ${name})
    add_test(NAME ${name} COMMAND ${name} ${PROJECT_SOURCE_DIR}/fuzz/seeds/${seeds})
    set_tests_properties(${name} PROPERTIES TIMEOUT 300 ENVIRONMENT "${test_env}")
  else()
    continue()
  endif()
  target_include_directories(${name} PRIVATE include src fuzz)
  target_link_libraries(${name} PRIVATE fitq_static fitq_flags ${fitq_needs})
endforeach()

# A rank for tests/cli/test_ranks.py.
add_executable(comm_probe tests/comm/probe.c)
target_include_directories(comm_probe PRIVATE include src)
target_link_libraries(comm_probe PRIVATE fitq_static fitq_flags ${fitq_needs})

add_subdirectory(tests/fault)

# Scripts: every tests/*/test_*.py is one test; tests/cli/run.py runs the recorded cases.
# Exit status 77 = skipped.
set(script_env ${test_env} "FITQ_SHARED_LIBRARY=$<TARGET_FILE:fitq_shared>" "FITQ_SANITIZE=${FITQ_SANITIZE}" "FITQ_MPIEXEC=${MPIEXEC_EXECUTABLE}"
               "FITQ_FAULT_SHIM=$<TARGET_FILE:fault_shim>" "FITQ_CMAKE=${CMAKE_COMMAND}" "FITQ_CC=${CMAKE_C_COMPILER}" "PYTHONDONTWRITEBYTECODE=1")
file(GLOB script_tests CONFIGURE_DEPENDS tests/*/test_*.py tests/cli/run.py
     tests/cli/check_*.py)
foreach(source ${script_tests})
  get_filename_component(name ${source} NAME_WE)
  get_filename_component(folder ${source} DIRECTORY)
  get_filename_component(folder ${folder} NAME)
  add_test(NAME ${folder}.${name} COMMAND ${Python3_EXECUTABLE} ${source})
  set_tests_properties(${folder}.${name} PROPERTIES TIMEOUT 600 SKIP_RETURN_CODE 77 ENVIRONMENT "${script_env}")
endforeach()

# Against the tokenizers library, where Node.js, npm and the network are there.
find_program(NODE_PROGRAM NAMES node nodejs)
if(NODE_PROGRAM)
  add_test(NAME tools.tokenizers_judge COMMAND ${NODE_PROGRAM} ${PROJECT_SOURCE_DIR}/tests/tools/tokenizers_judge.mjs)
else()
  add_test(NAME tools.tokenizers_judge COMMAND ${CMAKE_COMMAND} -E echo "skipped: no Node.js")
endif()
set_tests_properties(tools.tokenizers_judge PROPERTIES TIMEOUT 600 SKIP_RETURN_CODE 77 SKIP_REGULAR_EXPRESSION "^skipped: no Node"
                     ENVIRONMENT "${script_env}")
