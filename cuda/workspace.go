package cuda

// arena cuts a call's workspace into pieces. One function lays out what an operation
// needs: from base 0 to find its size, from the workspace's base to launch.
type arena struct {
	base uintptr
	used uint64
}

// take cuts off so many bytes, aligned as the base is.
func (a *arena) take(bytes uint64) uintptr {
	start := a.used
	a.used += (bytes + workspaceAlignment - 1) / workspaceAlignment * workspaceAlignment
	return a.base + uintptr(start)
}
