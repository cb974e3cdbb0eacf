"""Sentiment of reviews: per event, per item, and by aspect."""

from __future__ import annotations

from segue.features.sentiment.reviews import add_sentiment, find_aspects, summarize_items
from segue.features.sentiment.settings import SentimentSettings

__all__ = ["SentimentSettings", "add_sentiment", "find_aspects", "summarize_items"]
