package vector

//go:generate go -C gen run .
