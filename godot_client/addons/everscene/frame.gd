class_name EversceneFrame
extends RefCounted
## One frame of the generated world, and what is known about it.

## Frame number: 1 for the first of a server start, then +1 for each.
var number := 0
## The server start that made it; all counters begin anew with another.
var epoch := 0
## Content time in nanoseconds: 0 for frame 1.
var pts_ns := 0
## Chunk number: frames of one chunk were denoised together.
var chunk := 0
## Which frame of its chunk, from 0.
var index := 0
## The server's number for the latest event or prompt under which it was generated; 0 = none.
var order := 0
## The prompt under which it was generated.
var prompt := ""
## A new shot or a new world begins with this frame.
var is_cut := false
## Content was lost before this frame (the engine restarted).
var is_discontinuity := false
## Moments on the server's clock (ns since 1970; 0 = none): received, recached, denoised, decoded,
## published. The first two belong to the event or prompt behind the frame.
var stamps_ns := {}
## The picture: RGBA8, sRGB, top row first.
var image: Image


## Milliseconds from the arrival of the event or prompt behind this frame at the server to the
## publishing of this frame. −1 when there is none.
func latency_ms() -> float:
	var received: int = stamps_ns.get("received", 0)
	var published: int = stamps_ns.get("published", 0)
	return (published - received) / 1e6 if received > 0 and published > 0 else -1.0


## Milliseconds since this frame was published. Only meaningful on the server's own machine.
func age_ms() -> float:
	var published: int = stamps_ns.get("published", 0)
	return Time.get_unix_time_from_system() * 1e3 - published / 1e6 if published > 0 else -1.0
