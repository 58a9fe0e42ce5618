// Telling a person (or with --json a program) what went wrong, and the exit code that belongs to
// it.
#pragma once

#include <boost/json/object.hpp>
#include <string>

#include "client/failure.h"
#include "client/globals.h"

namespace sluice {

int exit_code_for(const Failure& failure);

// Prints `sluice: WHAT failed: WHY   [code]` and a `try:` line on stderr, or one JSON line with
// --json. A closed pipe is quiet, an interruption too. Returns the exit code.
int report_failure(const Globals& globals, const std::string& what, const Failure& failure);

// The document of a --json verb: {"schema":"sluice.<verb>.v1", ...} and a newline, on stdout.
int print_document(const Globals& globals, const std::string& verb, boost::json::object fields);
// As it came from the daemon, which names its own schema; ours wins.
boost::json::object with_schema(const std::string& verb, boost::json::object fields);

// write_stdout; on an error reports it and returns its exit code, else `code`.
int finish_stdout(const Globals& globals, const std::string& text, int code = 0);

}  // namespace sluice
