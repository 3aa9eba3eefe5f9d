package main

import (
	"os"
	"path/filepath"
	"testing"
)

// What is committed is what the generators write.
func TestCommittedIsGenerated(t *testing.T) {
	folder := t.TempDir()
	generate(folder)
	written, _ := filepath.Glob(filepath.Join(folder, "zz_generated_*"))
	committed, _ := filepath.Glob(filepath.Join("..", "zz_generated_*"))
	if len(written) == 0 || len(written) != len(committed) {
		t.Fatalf("generated %d files, %d are committed; run go generate in core/vector", len(written), len(committed))
	}
	for _, path := range written {
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join("..", filepath.Base(path)))
		if err != nil || string(got) != string(want) {
			t.Errorf("%s differs from what is generated (%v); run go generate in core/vector", filepath.Base(path), err)
		}
	}
}
