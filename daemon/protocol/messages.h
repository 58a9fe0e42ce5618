// Everything the daemon and its clients say to each other.
#pragma once

#include "daemon/protocol/budget.h"
#include "daemon/protocol/errors.h"
#include "daemon/protocol/json_text.h"
#include "daemon/protocol/native.h"
#include "daemon/protocol/openai.h"
#include "daemon/protocol/openai_answers.h"
