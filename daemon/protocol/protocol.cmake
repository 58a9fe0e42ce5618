add_library(sluice_protocol STATIC
  protocol/budget.cc protocol/errors.cc protocol/fields.cc protocol/json_text.cc protocol/native.cc protocol/openai.cc
  protocol/openai_answers.cc protocol/plan.cc)
sluice_size_warnings(sluice_protocol)
target_link_libraries(sluice_protocol PUBLIC sluice_base Boost::json)
