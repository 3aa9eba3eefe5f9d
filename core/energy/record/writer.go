package record

import (
	"errors"
	"os"
	"sync"
)

// Writer appends lines to a file. Each is one write of a whole line to a file opened for
// appending, so that a process that is killed loses at most the line that it was writing.
// It is safe for concurrent use.
type Writer struct {
	mutex sync.Mutex
	file  *os.File
	err   error
}

// Create makes the file of a run. One that exists is not touched: a record is never
// overwritten.
func Create(path string) (*Writer, error) {
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	return &Writer{file: file}, nil
}

// Write appends a line. After an error the file is left alone: a line behind half a line
// would be lost with it.
func (w *Writer) Write(l Line) error {
	text, err := l.MarshalJSON() // json.Marshal would check the text once more
	if err != nil {
		return err
	}
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if w.err == nil {
		_, w.err = w.file.Write(append(text, '\n'))
	}
	return w.err
}

// Close flushes the file to the disk and closes it.
func (w *Writer) Close() error {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return errors.Join(w.err, w.file.Sync(), w.file.Close())
}
