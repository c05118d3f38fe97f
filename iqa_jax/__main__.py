from iqa_jax.cli.app import main

if __name__ == "__main__":
    main()
