package abi

import "sync"

// call holds the decoded arguments A of one call and the tensors they point to.
type call[A any] struct {
	args    A
	tensors tensors
}

// pool lends the calls of one operation, so that decoding allocates nothing.
type pool[A any] struct{ free sync.Pool }

// run decodes with decode and hands the arguments to do, which must not keep them.
func (p *pool[A]) run(decode func(*A, *tensors) error, do func(*A) error) error {
	c, _ := p.free.Get().(*call[A])
	if c == nil {
		c = new(call[A])
	}
	defer func() {
		// The caller's memory may be gone, or Go's, when the collector looks here next.
		c.args = *new(A)
		c.tensors.clear()
		p.free.Put(c)
	}()
	err := decode(&c.args, &c.tensors)
	if err == nil {
		err = c.tensors.err
	}
	if err != nil {
		return err
	}
	return do(&c.args)
}
