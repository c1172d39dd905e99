# Unstripped: stripping cuts off the program that it carries.
programs_of_wheel claude_agent_sdk/_bundled/claude
