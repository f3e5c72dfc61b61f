"""The reference of the API and of the command line, row by row, and the test that shows each row to be true.

A row whose test is PLANNED is not built yet; `tests/arch/test_coverage.py` holds that against the program, so that
whoever builds it names its test here. `tools/reference.py` writes the rows into `docs/reference/coverage.md`.
"""

from __future__ import annotations

from typing import Final

PLANNED: Final = ""

_ROUTES = "tests/api/test_routes.py::test_the_route_works"
TYPED = "tests/e2e/test_seed_example.py::test_the_example_works_as_it_is_typed"
INSIDE = "tests/e2e/test_seed_example.py::test_the_commands_inside_a_task_work_as_they_are_typed"
_DRY_RUN = "tests/e2e/test_commands.py::test_a_dry_run_starts_nothing_and_shows_no_secret"
_SIGN_IN = "tests/api/test_command_line_sign_in.py::test_signed_in_from_a_browser_and_out_again"
_SESSION = "tests/session/test_session.py::test_the_commands_tell_what_they_did"

ROUTES: Final[dict[str, dict[str, str]]] = {
    "Projects": {
        "GET /v1/projects": "tests/api/test_pages.py::test_projects_hosts_and_sandboxes_have_pages_too",
        "PUT /v1/projects/:projectKey": "tests/api/test_runs.py::test_a_project_put_twice",
        "GET /v1/projects/:projectKey": _ROUTES,
        "PATCH /v1/projects/:projectKey": _ROUTES,
        "POST /v1/projects/:projectKey/archive": "tests/api/test_runs.py::test_an_archived_project_takes_no_run",
    },
    "Runs and tasks": {
        "PUT /v1/runs/:runKey": "tests/api/test_runs.py::test_a_run_put_twice",
        "GET /v1/runs?projectKey=&state=&cursor=&limit=": "tests/api/test_pages.py::test_runs_by_state_and_project",
        "GET /v1/runs/:runId": _ROUTES,
        "DELETE /v1/runs/:runId": "tests/api/test_runs.py::test_cancel_retry_and_delete",
        "POST /v1/runs/:runKey/close": _ROUTES,
        "GET /v1/runs/:runId/tasks": "tests/api/test_operations.py::test_lists_show_the_version_and_the_activity_who_wrote",
        "PUT /v1/runs/:runKey/tasks/:taskKey": "tests/api/test_runs.py::test_saving_and_admitting_in_parts",
        "POST /v1/runs/:runKey/tasks/admit": "tests/api/test_runs.py::test_saving_and_admitting_in_parts",
        "GET /v1/tasks/:taskId": _ROUTES,
        "POST /v1/tasks/:taskId/cancel": "tests/api/test_runs.py::test_cancel_retry_and_delete",
        "GET /v1/tasks/:taskId/logs": "tests/api/test_pages.py::test_activity_and_logs_in_pages",
        "GET /v1/tasks/:taskId/activity": "tests/api/test_pages.py::test_activity_and_logs_in_pages",
    },
    "Workpads, messages and permissions": {
        "GET /v1/tasks/:taskId/workpad": "tests/api/test_operations.py::test_a_workpad_begins_empty_and_keeps_every_version",
        "PUT /v1/tasks/:taskId/workpad": "tests/api/test_operations.py::test_a_save_from_an_old_version_is_refused_with_the_current_one",
        "POST /v1/tasks/:taskId/messages": "tests/api/test_messages.py::test_a_message_reaches_the_sandbox_and_its_states_come_back",
        "POST /v1/tasks/:taskId/permissions/:permissionRequestId/respond": "tests/api/test_permissions.py::test_from_the_question_to_the_answer",
        "GET /v1/tasks/:taskId/rounds/:roundKey/outputs/:outputKey/fetch": "tests/api/test_groups.py::test_a_live_task_takes_prompts_one_after_the_other_and_ends_when_told",
        "GET /v1/tasks/:taskId/rounds/:roundKey/outputs/:outputKey/workspace": "tests/api/test_groups.py::test_a_live_task_takes_prompts_one_after_the_other_and_ends_when_told",
    },
    "Hosts": {
        "GET /v1/hosts": "tests/api/test_pages.py::test_projects_hosts_and_sandboxes_have_pages_too",
        "POST /v1/hosts": _ROUTES,
        "POST /v1/hosts/setup": _ROUTES,
        "GET /v1/hosts/:hostId": _ROUTES,
        "PATCH /v1/hosts/:hostId": _ROUTES,
        "PUT /v1/hosts/:hostId/project-workspace-root": _ROUTES,
        "PUT /v1/hosts/:hostId/project-bindings/:projectKey": _ROUTES,
        "GET /v1/hosts/:hostId/project-bindings": _ROUTES,
        "POST /v1/hosts/:hostId/disable": _ROUTES,
        "DELETE /v1/hosts/:hostId": _ROUTES,
        "GET /v1/hosts/:hostId/pools": _ROUTES,
        "GET /v1/hosts/:hostId/credentials": _ROUTES,
        "GET /v1/hosts/:hostId/credentials/:hostCredentialId": _ROUTES,
        "POST /v1/hosts/:hostId/credentials/rotate": _ROUTES,
        "POST /v1/hosts/:hostId/credentials/:hostCredentialId/revoke": _ROUTES,
    },
    "Sandbox fleet": {
        "GET /v1/sandboxes": "tests/api/test_pages.py::test_projects_hosts_and_sandboxes_have_pages_too",
        "GET /v1/sandboxes/:sandboxId": _ROUTES,
        "DELETE /v1/sandboxes/:sandboxId": _ROUTES,
        "POST /v1/sandboxes/:sandboxId/drain": _ROUTES,
        "POST /v1/sandboxes/:sandboxId/stop": _ROUTES,
    },
    "Artifacts and run outputs": {
        "POST /v1/artifacts": _ROUTES,
        "GET /v1/artifacts/:artifactId": _ROUTES,
        "GET /v1/artifacts/:artifactId/fetch": _ROUTES,
        "GET /v1/runs/:runId/artifacts": _ROUTES,
        "GET /v1/runs/:runId/history.jsonl": _ROUTES,
        "GET /v1/runs/:runId/file-reservations": "tests/api/test_operations.py::test_a_reservation_keeps_other_tasks_out_and_says_who_and_why",
        "GET /v1/runs/:runId/metrics": _ROUTES,
    },
}
"""Group → `METHOD /path/:parameter?query=` → test."""

COMMANDS: Final[dict[str, dict[str, str]]] = {
    "Auth": {
        "flakes auth login": "tests/cli/test_sign_in.py::test_login_shows_the_code_and_keeps_the_token_for_its_server",
        "flakes auth login --no-open": _SIGN_IN,
        "flakes auth login --timeout-ms 600000": "tests/cli/test_sign_in.py::test_nobody_approves_in_time",
        "flakes auth login --json": _SIGN_IN,
        "flakes auth status": TYPED,
        "flakes auth status --json": _SESSION,
        "flakes auth logout": "tests/cli/test_sign_in.py::test_logout_revokes_and_forgets",
        "flakes auth logout --json": _SIGN_IN,
    },
    "Local runtime and configuration": {
        "flakes server --config <server.toml>": "tests/e2e/test_commands.py::test_a_server_in_the_foreground_ends_in_order",
        "flakes server -c <server.toml>": _DRY_RUN,
        "flakes server --config <server.toml> --host 127.0.0.1 --port 7733 --dry-run": TYPED,
        "flakes sandbox --config <sandbox.toml>": "tests/host/test_real_daemon.py::test_a_lease_becomes_a_connected_daemon",
        "flakes sandbox -c <sandbox.toml>": _DRY_RUN,
        "flakes sandbox --config <sandbox.toml> --dry-run": _DRY_RUN,
        "flakes down --session flakes --dry-run --json": TYPED,
        "flakes config schema": "tests/cli/test_commands.py::test_config_examples_are_printed",
        "flakes config schema server": TYPED,
        "flakes config schema sandbox": TYPED,
    },
    "Projects": {
        "flakes projects create --key <project-key> --name <name>": TYPED,
        "flakes projects list": TYPED,
        "flakes projects archive <project-key>": TYPED,
        "flakes projects bind-host <project-key> --host <host-id> --pool <pool-key>": "tests/api/test_host_commands.py::test_a_host_is_rotated_rooted_bound_and_shown",
    },
    "Hosts": {
        "flakes host setup --config <host.toml>": "tests/api/test_host_commands.py::test_setup_writes_files_once_and_shows_no_secret",
        "flakes host setup --config <host.toml> --credential-file <path> --state-dir <dir> --host-name <name>": "tests/api/test_host_commands.py::test_setup_writes_files_once_and_shows_no_secret",
        "flakes host setup --config <host.toml> --no-open --timeout-ms 600000": "tests/api/test_command_line_sign_in.py::test_setup_signs_in_when_nobody_is",
        "flakes host setup --config <host.toml> --json": "tests/api/test_host_commands.py::test_setup_writes_files_once_and_shows_no_secret",
        "flakes host rotate --config <host.toml>": "tests/api/test_host_commands.py::test_a_host_is_rotated_rooted_bound_and_shown",
        "flakes host rotate --config <host.toml> --json": "tests/api/test_host_commands.py::test_a_host_is_rotated_rooted_bound_and_shown",
        "flakes host project-root set --config <host.toml> --path <absolute-root>": "tests/api/test_host_commands.py::test_a_host_is_rotated_rooted_bound_and_shown",
        "flakes host run --config <host.toml>": "tests/session/test_session.py::test_up_starts_everything_and_down_leaves_nothing",
        "flakes host status --config <host.toml>": "tests/api/test_host_commands.py::test_a_host_is_rotated_rooted_bound_and_shown",
        "flakes host status --config <host.toml> --json": "tests/api/test_host_commands.py::test_a_host_is_rotated_rooted_bound_and_shown",
    },
    "Runs": {
        'flakes runs create --project <project-key> --key <run-key> --name "Release notes"': TYPED,
        'flakes runs create --project <project-key> --key <run-key> --name "Release notes" --token <token>': TYPED,
        'flakes runs create --project <project-key> --key <run-key> --name "Release notes" -t <token>': TYPED,
        "flakes runs close <run-key>": TYPED,
        "flakes runs close <run-key> --wait --timeout-ms 600000": TYPED,
        "flakes runs close <run-key> --token <token>": TYPED,
        "flakes runs close <run-key> -t <token>": TYPED,
        "flakes inspect <run-id-or-key>": TYPED,
        "flakes inspect <run-id-or-key> --token <token>": TYPED,
        "flakes inspect <task-id> --task": TYPED,
        "flakes logs <task-id> --after <cursor> --limit <n>": TYPED,
        "flakes logs <task-id> -t <token>": TYPED,
        "flakes metrics <run-id>": TYPED,
        "flakes metrics <run-id> -t <token>": TYPED,
    },
    "Tasks": {
        'flakes tasks save --run <run-key> --key <task-key> --title "Draft" --adapter pi --body "Write the draft."': TYPED,
        'flakes tasks save --run <run-key> --key <task-key> --title "Draft" --adapter pi --body-file prompt.md --required-capability pi --depends-on outline': TYPED,
        'flakes tasks save --run <run-key> --key <task-key> --title "Plan" --adapter harness --harness-file harnesses/paper-writer.ts --tool-grant flakes.tasks.spawn': "tests/cli/test_commands.py::test_a_harness_module_goes_along_with_its_task",
        "flakes tasks save --run r --key k --title t --adapter a --acceptance x --acceptance y --depends-on x --depends-on y --required-capability x --required-capability y --tool-grant x --tool-grant y": "tests/cli/test_commands.py::test_saving_and_admitting_tasks",
        "flakes tasks save --run r --key k --title t --adapter a --token <token>": TYPED,
        "flakes tasks admit --run <run-key> <task-key>": TYPED,
        "flakes tasks admit --run <run-key> --all": TYPED,
        "flakes tasks admit --run <run-key> --all -t <token>": TYPED,
    },
    "Workpads and file reservations": {
        "flakes tasks workpad show <task-id>": TYPED,
        "flakes tasks workpad show <task-id> --raw": TYPED,
        "flakes tasks workpad save <task-id> --file <workpad.md> --base-version <version>": TYPED,
        "flakes tasks workpad save <task-id> -f <workpad.md> --base-version <version>": TYPED,
        "flakes tasks workpad template <task-id> --output <workpad.md>": TYPED,
        "flakes tasks workpad template <task-id> -o <workpad.md>": TYPED,
        "flakes tasks workpad pull": INSIDE,
        "flakes tasks workpad push": INSIDE,
        'flakes tasks files reserve <path...> --reason "editing" --json': INSIDE,
        "flakes tasks files reserve <path...> --prefix --json": INSIDE,
        "flakes tasks files release <path...> --json": INSIDE,
        "flakes tasks files release <path...> --prefix --json": INSIDE,
        "flakes tasks files release --all --json": INSIDE,
        "flakes tasks files list --json": INSIDE,
        "flakes tasks files check <path...> --json": INSIDE,
        "flakes tasks files check <path...> --prefix --json": INSIDE,
    },
    "Harness checks": {
        "flakes harness init --template paper --dir harnesses": "tests/harness/test_check.py::test_a_template_passes_its_own_check",
        "flakes harness init --template review-revise --dir harnesses --file review.ts --force": "tests/harness/test_check.py::test_init_does_not_overwrite",
        "flakes harness check harnesses/paper-writer.ts": "tests/harness/test_check.py::test_cases_that_fail_and_files_beside_the_module",
        "flakes harness check harnesses/paper-writer.ts --defaults harnesses/defaults.json --json": "tests/harness/test_check.py::test_a_template_passes_its_own_check",
    },
    "Artifacts": {
        "flakes artifacts create --file artifact.json": TYPED,
        "flakes artifacts create -f artifact.json": TYPED,
        "flakes artifacts get <artifact-id>": TYPED,
        "flakes artifacts fetch <artifact-id> --location-id <location-id>": TYPED,
        "flakes artifacts fetch <artifact-id> --output <file>": TYPED,
        "flakes artifacts fetch <artifact-id> -o <file>": TYPED,
        "flakes artifacts fetch <artifact-id> --raw": TYPED,
        "flakes artifacts create --file artifact.json --token <token>": TYPED,
        "flakes artifacts get <artifact-id> -t <token>": TYPED,
        "flakes artifacts fetch <artifact-id> --output <file> -t <token>": TYPED,
    },
}
"""Group → command line, with `<placeholders>` → test."""
