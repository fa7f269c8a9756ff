"""A retail workflow of three agents: a strategy in plain words becomes parameters, a demand forecast and a plan.

``workflow.py`` names the agents; ``analyst.py`` reads the strategy, ``forecaster.py`` forecasts with statsmodels on ``sales.csv``,
``planner.py`` says what to order. The sales are synthetic: ``make_data.py`` made them, always the same ones.
"""
