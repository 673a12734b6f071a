"""`python -m pixieboot` is the same as `pixieboot`."""

from pixieboot.cli import main

if __name__ == "__main__":
    main()
