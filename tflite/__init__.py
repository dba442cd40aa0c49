"""TensorFlow Lite: conversion and the Predictors of its files."""
