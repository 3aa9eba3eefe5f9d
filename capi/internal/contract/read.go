package contract

import (
	"debug/dwarf"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// Our names, and DLPack's, which are part of the contract.
var (
	ours       = regexp.MustCompile(`^(gmoe_|DL|GMOE_|kDL)`)
	declared   = regexp.MustCompile(`(?m)^\w[\w *]*?\b(gmoe_\w+)\(`)
	versioning = "contract_abi_version"
)

// Read compiles genesis_moe.h, from a folder, and takes the contract from the debugging
// information: the layout is the compiler's own.
func Read(compiler, include string) (Contract, error) {
	header, err := os.ReadFile(filepath.Join(include, "genesis_moe.h"))
	if err != nil {
		return Contract{}, err
	}
	folder, err := os.MkdirTemp("", "contract")
	if err != nil {
		return Contract{}, err
	}
	defer os.RemoveAll(folder)
	source, object := filepath.Join(folder, "contract.c"), filepath.Join(folder, "contract.o")
	if err := os.WriteFile(source, []byte(probe(string(header))), 0o600); err != nil {
		return Contract{}, err
	}
	command := exec.Command(compiler, "-std=c99", "-g", "-gdwarf-4", "-fno-eliminate-unused-debug-types",
		"-I"+include, "-c", source, "-o", object)
	if text, err := command.CombinedOutput(); err != nil {
		return Contract{}, fmt.Errorf("%s: %w\n%s", compiler, err, text)
	}
	return readObject(object)
}

// probe is a C program that mentions what the debugging information would not hold
// otherwise: a pointer of each function's type, and the version as an array's length.
func probe(header string) string {
	var text strings.Builder
	text.WriteString("#include \"genesis_moe.h\"\n")
	for _, found := range declared.FindAllStringSubmatch(header, -1) {
		fmt.Fprintf(&text, "__typeof__(%[1]s) *function_%[1]s;\n", found[1])
	}
	fmt.Fprintf(&text, "char %s[GMOE_ABI_VERSION];\n", versioning)
	return text.String()
}

func readObject(path string) (Contract, error) {
	file, err := elf.Open(path)
	if err != nil {
		return Contract{}, err
	}
	defer file.Close()
	data, err := file.DWARF()
	if err != nil {
		return Contract{}, err
	}
	c := Contract{
		Functions: map[string]string{}, Structs: map[string]Struct{},
		Types: map[string]string{}, Enumerators: map[string]int64{},
	}
	entries := data.Reader()
	for {
		entry, err := entries.Next()
		if err != nil || entry == nil {
			return c, errors.Join(err, c.complete())
		}
		if err := c.add(data, entry); err != nil && !errors.Is(err, io.EOF) {
			return c, err
		}
	}
}

// complete reports a contract that lacks what every header of ours has.
func (c *Contract) complete() error {
	if c.ABIVersion == 0 || len(c.Functions) == 0 || len(c.Structs) == 0 || len(c.Enumerators) == 0 {
		return fmt.Errorf("the compiler's debugging information is not complete: %+v", *c)
	}
	return nil
}

func (c *Contract) add(data *dwarf.Data, entry *dwarf.Entry) error {
	name, _ := entry.Val(dwarf.AttrName).(string)
	switch entry.Tag {
	case dwarf.TagEnumerator:
		if value, ok := entry.Val(dwarf.AttrConstValue).(int64); ok && ours.MatchString(name) {
			c.Enumerators[name] = value
		}
	case dwarf.TagVariable:
		return c.addVariable(data, entry, name)
	case dwarf.TagTypedef:
		if ours.MatchString(name) {
			return c.addType(data, entry, name)
		}
	}
	return nil
}

func (c *Contract) addVariable(data *dwarf.Data, entry *dwarf.Entry, name string) error {
	offset, ok := entry.Val(dwarf.AttrType).(dwarf.Offset)
	if !ok {
		return nil
	}
	t, err := data.Type(offset)
	if err != nil {
		return err
	}
	if array, ok := t.(*dwarf.ArrayType); ok && name == versioning {
		c.ABIVersion = array.Count
	}
	if function, ok := strings.CutPrefix(name, "function_"); ok {
		c.Functions[function] = spell(t.(*dwarf.PtrType).Type)
	}
	return nil
}

func (c *Contract) addType(data *dwarf.Data, entry *dwarf.Entry, name string) error {
	t, err := data.Type(entry.Offset)
	if err != nil {
		return err
	}
	structure, ok := t.(*dwarf.TypedefType).Type.(*dwarf.StructType)
	if !ok || structure.Incomplete {
		c.Types[name] = spell(t.(*dwarf.TypedefType).Type)
		return nil
	}
	layout := Struct{Size: structure.ByteSize}
	for _, field := range structure.Field {
		layout.Fields = append(layout.Fields, Field{field.Name, spell(field.Type), field.ByteOffset, field.Type.Size()})
	}
	c.Structs[name] = layout
	return nil
}

// spell writes a type as C does, without names of parameters.
func spell(t dwarf.Type) string {
	switch t := t.(type) {
	case nil, *dwarf.VoidType:
		return "void"
	case *dwarf.TypedefType:
		return t.Name
	case *dwarf.QualType:
		return t.Qual + " " + spell(t.Type)
	case *dwarf.PtrType:
		if function, ok := t.Type.(*dwarf.FuncType); ok {
			return spell(function.ReturnType) + " (*)(" + parameters(function) + ")"
		}
		if target := spell(t.Type); strings.HasSuffix(target, "*") {
			return target + "*"
		} else {
			return target + " *"
		}
	case *dwarf.FuncType:
		return spell(t.ReturnType) + " (" + parameters(t) + ")"
	case *dwarf.StructType:
		return t.Kind + " " + t.StructName
	case *dwarf.EnumType:
		return fmt.Sprintf("enum of %d bytes", t.ByteSize)
	case *dwarf.ArrayType:
		return fmt.Sprintf("%s[%d]", spell(t.Type), t.Count)
	default:
		return t.Common().Name
	}
}

func parameters(function *dwarf.FuncType) string {
	if len(function.ParamType) == 0 {
		return "void"
	}
	names := make([]string, len(function.ParamType))
	for i, t := range function.ParamType {
		names[i] = spell(t)
	}
	return strings.Join(names, ", ")
}
