# Newer models call their tools through the second program, which has to lie beside the first.
programs_of_wheel codex_cli_bin/bin/codex codex_cli_bin/bin/codex-code-mode-host
