"""`python -m instructdiffusion.pipelines` is the command `instructdiffusion`."""

from instructdiffusion.pipelines.entry import main

main()
