"""The command line: thin, one file a command, imported by nobody.

A command is a module of this package with

    HELP: str                        one line for the list of commands
    add_arguments(parser) -> None    declares the flags
    run(arguments) -> None           does the work, with the heavy imports inside
"""
