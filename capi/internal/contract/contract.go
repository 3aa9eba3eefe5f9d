// Package contract describes the C ABI as data, read from the header the way a
// compiler sees it, and says which changes of it break callers that were built before.
//
// The committed description is capi/abi.json; `make abi` writes it.
package contract

import (
	"encoding/json"
	"regexp"
)

// Contract is what a caller's machine code depends on.
type Contract struct {
	ABIVersion  int64             `json:"abi_version"`
	Functions   map[string]string `json:"functions"` // the C type of each
	Structs     map[string]Struct `json:"structs"`
	Types       map[string]string `json:"types"` // what other typedefs stand for
	Enumerators map[string]int64  `json:"enumerators"`
}

// Struct is the layout of a struct, in bytes.
type Struct struct {
	Size   int64   `json:"size"`
	Fields []Field `json:"fields"`
}

// Field is one member of a [Struct].
type Field struct {
	Name   string `json:"name"`
	Type   string `json:"type"`
	Offset int64  `json:"offset"`
	Size   int64  `json:"size"`
}

// Growable reports whether the library is told how much of the struct a caller knows.
func (s Struct) Growable() bool { return len(s.Fields) > 0 && s.Fields[0].Name == "struct_size" }

// Parse reads the JSON that [Contract.Text] writes.
func Parse(text []byte) (Contract, error) {
	var c Contract
	return c, json.Unmarshal(text, &c)
}

var field = regexp.MustCompile(`\{\n +("name": .*)\n +("type": .*)\n +("offset": .*)\n +("size": .*)\n +\}`)

// Text is the contract as JSON, one line a name; names are in alphabetical order, fields in theirs.
func (c Contract) Text() []byte {
	text, err := json.MarshalIndent(c, "", " ")
	if err != nil {
		panic(err) // maps of strings and numbers always encode
	}
	return append(field.ReplaceAll(text, []byte("{$1 $2 $3 $4}")), '\n')
}
