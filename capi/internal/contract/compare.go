package contract

import (
	"fmt"
	"maps"
	"slices"
)

// Changes are the differences from one contract to a later one.
type Changes struct {
	// Breaking lists what callers built against the earlier contract would trip over.
	Breaking []string
	// Added lists what the later one has in addition; earlier callers do not notice.
	Added []string
}

// Compare lists what changed. Functions, enumerators and types may be added and structs
// that begin with struct_size may grow at their end; anything else is breaking.
func Compare(earlier, later Contract) Changes {
	var c Changes
	compareNames(&c, "function", earlier.Functions, later.Functions)
	compareNames(&c, "type", earlier.Types, later.Types)
	compareNames(&c, "enumerator", earlier.Enumerators, later.Enumerators)
	for _, name := range slices.Sorted(maps.Keys(earlier.Structs)) {
		if now, there := later.Structs[name]; there {
			c.compareStruct(name, earlier.Structs[name], now)
		} else {
			c.breaking("struct %s: removed", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(later.Structs)) {
		if _, there := earlier.Structs[name]; !there {
			c.added("struct %s", name)
		}
	}
	return c
}

func compareNames[V comparable](c *Changes, kind string, earlier, later map[string]V) {
	for _, name := range slices.Sorted(maps.Keys(earlier)) {
		if now, there := later[name]; !there {
			c.breaking("%s %s: removed", kind, name)
		} else if now != earlier[name] {
			c.breaking("%s %s: was %v, is %v", kind, name, earlier[name], now)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(later)) {
		if _, there := earlier[name]; !there {
			c.added("%s %s", kind, name)
		}
	}
}

func (c *Changes) compareStruct(name string, was, is Struct) {
	for i, field := range was.Fields {
		switch {
		case i >= len(is.Fields):
			c.breaking("struct %s: field %s removed", name, field.Name)
		case is.Fields[i] != field:
			c.breaking("struct %s: field %d was %s, is %s", name, i, field, is.Fields[i])
		}
	}
	for _, field := range is.Fields[min(len(was.Fields), len(is.Fields)):] {
		switch {
		case !was.Growable():
			c.breaking("struct %s: field %s added, but it does not begin with struct_size", name, field.Name)
		case field.Offset < was.Size:
			// Padding before: earlier callers count it in struct_size and leave rubbish in it.
			c.breaking("struct %s: field %s lies in what was padding (offset %d, size was %d)",
				name, field.Name, field.Offset, was.Size)
		default:
			c.added("struct %s: field %s", name, field.Name)
		}
	}
	if is.Size != was.Size && len(is.Fields) == len(was.Fields) {
		c.breaking("struct %s: size was %d, is %d", name, was.Size, is.Size)
	}
}

func (f Field) String() string {
	return fmt.Sprintf("%s %s at %d, %d bytes", f.Type, f.Name, f.Offset, f.Size)
}

func (c *Changes) breaking(format string, values ...any) {
	c.Breaking = append(c.Breaking, fmt.Sprintf(format, values...))
}

func (c *Changes) added(format string, values ...any) {
	c.Added = append(c.Added, fmt.Sprintf(format, values...))
}
