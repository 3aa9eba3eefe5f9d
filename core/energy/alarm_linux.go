package energy

import (
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// kernelAlarm is a timer of the kernel's. Of Go's own, each ring also wakes the runtime's monitor thread,
// twice, which costs the host more than the reading that is due.
type kernelAlarm struct {
	file *os.File
	raw  syscall.RawConn
}

func newAlarm() alarm {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil { // a sandbox may forbid it
		return newTimerAlarm()
	}
	file := os.NewFile(uintptr(fd), "timer of the meter")
	raw, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return newTimerAlarm()
	}
	return kernelAlarm{file, raw}
}

func (a kernelAlarm) set(after time.Duration) {
	at := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(max(after, 1)))} // 0 would be never
	_ = a.raw.Control(func(fd uintptr) { _ = unix.TimerfdSettime(int(fd), 0, &at, nil) })
}

func (a kernelAlarm) wait() bool {
	var rings [8]byte
	_, err := a.file.Read(rings[:])
	return err == nil
}

func (a kernelAlarm) close() { _ = a.file.Close() }
