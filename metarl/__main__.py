"""``python -m metarl`` is the ``metarl`` command."""

import sys

if __name__ == "__main__":
    from metarl import safe_path

    safe_path.leave_start_folder()

    try:
        from metarl.cli import main
    except KeyboardInterrupt:  # in its first moments
        sys.exit(130)

    sys.exit(main())
