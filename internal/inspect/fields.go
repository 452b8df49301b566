package inspect

// field is a piece of a section: a byte, a number or a name.
type field uint8

const (
	sectionID field = iota
	sectionSize
	sectionBody // of a section that is passed over
	sectionEnd  // nothing: all entries were read

	importCount
	moduleSize
	importSize
	importKind

	exportCount
	exportSize
	exportKind

	nameBytes

	itemIndex
	valueType
	heapType // what follows 0x63 or 0x64 in a type
	mutability
	limitFlags
	limit
	pageSize
	tagAttribute
)

// functionKind is the kind of imports and exports that are functions.
const functionKind = 0

// Prefixes in a type. They are of proposals, and are passed over: whether the
// gateway takes them is its matter.
const (
	exactType  = 0x62
	sharedType = 0x65
)

// The fields of an entry, in their order (WebAssembly Core Specification 3.0,
// 5.5.5 and 5.5.10).
var (
	importFields = []field{moduleSize, importSize, importKind} // and a descriptor
	exportFields = []field{exportSize, exportKind, itemIndex}
	// descriptors has what follows the kind of an import: function, table, memory, global, tag.
	descriptors = [...][]field{
		{itemIndex}, {valueType, limitFlags}, {limitFlags}, {valueType, mutability}, {tagAttribute, itemIndex},
	}
	// limits has what follows the flags of limits. Flags are the sum of: 1 has a
	// maximum, 2 is shared, 4 has 64-bit addresses, 8 has its own page size (a proposal).
	limits = [...][]field{
		{limit}, {limit, limit}, {limit}, {limit, limit}, {limit}, {limit, limit}, {limit}, {limit, limit},
		8: {limit, pageSize}, {limit, limit, pageSize}, {limit, pageSize}, {limit, limit, pageSize},
		12: {limit, pageSize}, {limit, limit, pageSize}, {limit, pageSize}, {limit, limit, pageSize},
	}
)

// numbers has how many bits the fields may have that are numbers in LEB128. All
// others are bytes.
var numbers = [...]uint8{
	sectionSize: 32, importCount: 32, moduleSize: 32, importSize: 32, exportCount: 32, exportSize: 32, itemIndex: 32, pageSize: 32,
	heapType:     33, // signed
	limit:        64, // also where addresses have 32 bits: whether it fits them is the gateway's matter
	tagAttribute: 0,
}
