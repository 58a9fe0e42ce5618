// Requests of the OpenAI routes.
#pragma once
