"""FERV39k: 38,935 clips from 22 scenes, seven expressions, one split."""
