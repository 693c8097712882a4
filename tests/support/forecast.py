"""The memory forecast, off: tracing one takes longer than training `tiny`, and few tests are about it."""

REAL = "TESTS_WITH_THE_REAL_FORECAST"  # a variable that scripts get, if they are to make it


def stand_in():
    """Put a forecast of 4 MiB in the place of all, which is not kept either. Returns the real function."""
    from memory import advice, forecast, suggestions

    real, made = forecast.forecast_memory, forecast.Forecast({"training": dict.fromkeys(forecast.KINDS, 2**20)}, 0)
    for module in (forecast, advice, suggestions):  # wherever it is looked up
        module.forecast_memory = lambda options, architecture, device="cuda": made
    return real
