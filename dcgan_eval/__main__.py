"""``python -m dcgan_eval`` is ``dcgan-eval``."""

from .cli.main import main

if __name__ == "__main__":
    main(prog_name="dcgan-eval")
