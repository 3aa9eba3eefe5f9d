//go:build !linux

package energy

func newAlarm() alarm { return newTimerAlarm() }
