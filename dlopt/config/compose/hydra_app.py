"""Hydra without its decorator: its flags, and the configuration that it composes, from a list of arguments.

`hydra.main` reads sys.argv, prints errors itself unless HYDRA_FULL_ERROR is set, and turns errors of checks in its
callbacks into warnings. Here the arguments are passed in, and every error is raised.
"""

from __future__ import annotations

import argparse
import contextlib
import secrets
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from dlopt.config.compose import groups, nested_options
from dlopt.config.compose.static_config import StaticConfig, read_yaml_or_empty
from dlopt.config.problems import ConfigError

if TYPE_CHECKING:
    from hydra.types import HydraContext
    from omegaconf import DictConfig

PROG = "dlopt train"


class HydraApp:
    """One call of Hydra: `with HydraApp(argv) as app`. Paths in argv are relative to the working directory.

    Another use of Hydra in this process is put aside in this block. configures_logging: whether composing configures
    the logging of the process.

    arguments  the parsed arguments
    overrides  the overrides in Hydra's form
    folders    the folder of user-defined options that --config-dir names, if it is given
    """

    def __init__(self, argv: Sequence[str], *, configures_logging: bool = True) -> None:
        self._configures_logging = configures_logging
        self.arguments, unknown = _make_parser().parse_known_args(list(argv))
        self.folders = _get_config_folders(self.arguments)
        folders = [groups.CONF, *self.folders]
        self.overrides = [nested_options.to_hydra(o, folders) for o in self.arguments.overrides]
        choices, has_multirun = read_hydra_choices(self.overrides, folders)
        typed = {override.partition("=")[0] for override in self.overrides}
        self.overrides += [f"{group}={option}" for group, option in choices.items() if group not in typed]
        self.arguments.multirun |= has_multirun
        self._check_unknown_flags([word for word in unknown if word.startswith("-")], argv)
        self.config_name = self.arguments.config_name or "config"

    def _check_unknown_flags(self, flags: Sequence[str], argv: Sequence[str]) -> None:
        """Raise ConfigError for flags that do not exist; `--epochs 5` is explained as the setting it may mean."""
        if not flags:
            return
        static = StaticConfig({}, self.folders)
        settings = {*static.list_groups(), *static.keys()}
        following = dict(pairwise(argv))
        problems = []
        for flag in flags:
            name, equals, value = flag.lstrip("-").partition("=")
            name = name.replace("-", "_")
            keys = [name] if name in settings or "." in name else static.find_keys(name)[:3]
            text = value if equals else following.get(flag, "-")
            text = "..." if text.startswith("-") or "=" in text else text
            advice = f"type {' or '.join(f'{key}={text}' for key in keys)}" if keys else "dlopt train --help shows them"
            problems.append((flag, f"there is no such flag; {advice}"))
        raise ConfigError(problems)

    def __enter__(self) -> HydraApp:
        from hydra._internal.hydra import Hydra
        from hydra._internal.utils import create_automatic_config_search_path
        from hydra.core.config_search_path import SearchPathQuery

        _check_flags(self.arguments)
        register_resolvers()
        folder = self.arguments.config_path or str(groups.CONF)
        search_path = create_automatic_config_search_path(None, "dlopt.cli.train", folder)
        for user_folder in self.folders:
            if not user_folder.is_dir():
                raise ConfigError([("", f"--config-dir: there is no directory {user_folder}")])
            search_path.prepend("command-line", f"file://{user_folder}", SearchPathQuery(provider="schema"))
        self._exit = contextlib.ExitStack()
        with self._exit:
            self._exit.enter_context(put_hydra_aside())
            self._hydra = Hydra.create_main_hydra2(task_name="train", config_search_path=search_path)
            self._exit = self._exit.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    def show(self) -> bool:
        """Print the output of --help, --hydra-help, --cfg or --info. Return whether one of them was given."""
        arguments, hydra, name = self.arguments, self._hydra, self.config_name
        arguments.overrides = self.overrides
        if arguments.help:
            hydra.app_help(name, _make_parser(), arguments)
        elif arguments.hydra_help:
            hydra.hydra_help(name, _make_parser(), arguments)
        elif arguments.cfg is not None:
            hydra.show_cfg(name, self.overrides, arguments.cfg, arguments.package, arguments.resolve)
        elif arguments.info is not None:
            hydra.show_info(arguments.info, name, self.overrides)
        else:
            return False
        return True

    def compose(self, *, multirun: bool) -> DictConfig:
        """Compose the configuration of a run, or of a sweep, and configure Hydra's logging if that is wanted.

        Of a sweep, it holds the keys of Hydra; each run is composed later. Hydra ignores optimizer=sgd,momentum here,
        and refuses optimizer.momentum=0.9 as a key of the default optimizer. Then the keys of options are left out.
        """
        from hydra.errors import HydraException

        if not multirun:
            return self._compose(self.overrides, "RUN")
        try:
            return self._compose(self.overrides, "MULTIRUN")
        except HydraException:
            keys = {override: nested_options.get_key(override) for override in self.overrides}
            of_hydra = [o for o, key in keys.items() if key.startswith(("hydra.", "hydra/"))]
            config = self._compose([o for o, key in keys.items() if o in of_hydra or "." not in key], "MULTIRUN")
            config.hydra.overrides.task = [override for override in self.overrides if override not in of_hydra]
            return config

    def _compose(self, overrides: Sequence[str], mode: str) -> DictConfig:
        from hydra.types import RunMode

        words = [*overrides, f"hydra.mode={mode}"]
        logs = self._configures_logging
        return self._hydra.compose_config(self.config_name, words, RunMode[mode], with_log_configuration=logs)

    def make_context(self, config: DictConfig) -> HydraContext:
        """Return the context of Hydra's plugins: the callbacks, and the loader that composes further configurations."""
        from hydra._internal.callbacks import Callbacks
        from hydra.types import HydraContext

        return HydraContext(config_loader=self._hydra.config_loader, callbacks=Callbacks(config))


@contextlib.contextmanager
def put_hydra_aside() -> Iterator[None]:
    """Let Hydra be initialized in this block, and restore afterwards how this process has used it."""
    from hydra import version
    from hydra.core.global_hydra import GlobalHydra

    hydra, base = GlobalHydra.instance().hydra, version.getbase()
    GlobalHydra.instance().clear()
    version.setbase("1.3")
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = hydra
        if hydra is not None and base is not None:  # otherwise each use of Hydra sets its version
            version.VersionBase.instance().setbase(base)


def set_key(config: DictConfig, override: str) -> None:
    """Set a key of a composed configuration, which Hydra's node belongs to, as composing with this override would.

    Hydra has no public function for it. Composing again takes 40 ms.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.types import RunMode

    loader = GlobalHydra.instance().config_loader()
    overrides = OverridesParser.create(config_loader=loader).parse_overrides([override])
    ConfigLoaderImpl.validate_sweep_overrides_legal(overrides, RunMode.RUN, from_shell=False)
    ConfigLoaderImpl._apply_overrides_to_config(overrides, config)


def register_resolvers() -> None:
    """Register ${dlopt.name:} and ${dlopt.random:} for one command; both are parts of a directory's name."""
    from omegaconf import OmegaConf

    random = secrets.token_hex(2)
    OmegaConf.register_new_resolver("dlopt.random", lambda: random, replace=True)
    OmegaConf.register_new_resolver("dlopt.name", _name_run, replace=True)


def list_overrides(hydra: Any) -> list[str]:
    """Return the overrides of a run as they were typed: iterating over Hydra's list would resolve interpolations."""
    from omegaconf import OmegaConf

    overrides: list[str] = OmegaConf.to_container(hydra.overrides.task, resolve=False)  # type: ignore[assignment]
    return overrides


def _name_run(*, _root_: Any) -> str:
    """Return the typed name, or <arch>-<optimizer>; a custom class is named by its class name."""
    overrides = dict(o.partition("=")[::2] for o in list_overrides(_root_.hydra))

    def name_choice(group: str) -> str:
        target = overrides.get(f"{group}._target_", "")
        return target.rpartition(".")[2] or str(_root_.hydra.runtime.choices.get(group))

    return str(_root_.get("name") or f"{name_choice('arch')}-{name_choice('optimizer')}")


def read_hydra_choices(overrides: Sequence[str], folders: Sequence[Path]) -> tuple[dict[str, str], bool]:
    """Return the options of Hydra's groups that the experiments of a command choose, and whether one asks for a sweep.

    Hydra itself prefers the choices of config.yaml, because the primary configuration is read first.
    """
    choices: dict[str, str] = {}
    has_multirun = False
    for value in (o.partition("=")[2] for o in overrides if o.lstrip("+").startswith(f"{groups.PRESETS}=")):
        files = (
            folder / groups.PRESETS / f"{name}.yaml" for name in value.strip("[]").split(",") for folder in folders
        )
        for content in (read_yaml_or_empty(file) for file in files if file.is_file()):
            for name, option in nested_options.iter_defaults(content):
                group = name.removeprefix("override ").removeprefix("/")
                if group.startswith("hydra/") and name.startswith("override "):
                    choices[group] = option
            has_multirun |= (content.get("hydra") or {}).get("mode") == "MULTIRUN"
    return choices, has_multirun


def find_config_folders(argv: Sequence[str]) -> list[Path]:
    """Return the folder of user-defined options that --config-dir names, if it is given."""
    return _get_config_folders(_make_parser().parse_known_args(list(argv))[0])


def _get_config_folders(arguments: argparse.Namespace) -> list[Path]:
    return [Path(arguments.config_dir).absolute()] if arguments.config_dir else []


def _make_parser() -> argparse.ArgumentParser:
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    parser.prog = PROG
    return parser


def _check_flags(arguments: argparse.Namespace) -> None:
    """Raise ConfigError for flags that exclude each other, and for flags of Hydra that dlopt does not support."""
    a = arguments
    shows = a.cfg is not None
    if a.experimental_rerun is not None:
        raise ConfigError([("", "--experimental-rerun is not supported; type dlopt rerun RUN")])
    if a.shell_completion:
        raise ConfigError([("", "--shell-completion is not supported; type dlopt completion bash")])
    if a.resolve and not (shows or a.help):
        raise ConfigError([("", "--resolve needs --cfg or --help")])
    if a.run + a.multirun + shows + (a.info is not None) > 1 and not (a.help or a.hydra_help):
        raise ConfigError([("", "give only one of --run, --multirun, --cfg and --info")])
