"""`python -m instructdiffusion.pipelines` is the command `instructdiffusion`."""

from instructdiffusion.pipelines.cli import main

main()
