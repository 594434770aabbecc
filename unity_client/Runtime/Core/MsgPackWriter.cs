using System;
using System.Text;

namespace Everscene
{
    /// <summary>
    /// Writes msgpack into one growing buffer, every value in its shortest form and every real number as float 64.
    /// Containers take their count first: <c>Map(2).Text("a").Integer(1).Text("b").Nil()</c>. Not thread-safe.
    /// </summary>
    public sealed class MsgPackWriter
    {
        public byte[] Buffer { get; private set; } = new byte[256];
        public int Length { get; private set; }

        public MsgPackWriter Reset()
        {
            Length = 0;
            return this;
        }

        /// <summary>A copy of what has been written.</summary>
        public byte[] ToArray()
        {
            var bytes = new byte[Length];
            System.Buffer.BlockCopy(Buffer, 0, bytes, 0, Length);
            return bytes;
        }

        public MsgPackWriter Nil() => Byte(0xC0);

        public MsgPackWriter Bool(bool value) => Byte(value ? 0xC3 : 0xC2);

        public MsgPackWriter Integer(long value)
        {
            if (value >= 0)
            {
                if (value < 0x80) return Byte((int)value);
                if (value <= 0xFF) return Byte(0xCC).BigEndian((ulong)value, 1);
                if (value <= 0xFFFF) return Byte(0xCD).BigEndian((ulong)value, 2);
                if (value <= 0xFFFFFFFFL) return Byte(0xCE).BigEndian((ulong)value, 4);
                return Byte(0xCF).BigEndian((ulong)value, 8);
            }
            if (value >= -32) return Byte((int)value & 0xFF);
            if (value >= sbyte.MinValue) return Byte(0xD0).BigEndian((ulong)value, 1);
            if (value >= short.MinValue) return Byte(0xD1).BigEndian((ulong)value, 2);
            if (value >= int.MinValue) return Byte(0xD2).BigEndian((ulong)value, 4);
            return Byte(0xD3).BigEndian((ulong)value, 8);
        }

        public MsgPackWriter Number(double value) =>
            Byte(0xCB).BigEndian((ulong)BitConverter.DoubleToInt64Bits(value), 8);

        /// <summary>A string; null becomes nil.</summary>
        public MsgPackWriter Text(string value)
        {
            if (value == null) return Nil();
            int count = Encoding.UTF8.GetByteCount(value);
            if (count < 32) Byte(0xA0 | count);
            else Sized(count, 0xD9, 0xDA, 0xDB);
            Reserve(count);
            Encoding.UTF8.GetBytes(value, 0, value.Length, Buffer, Length);
            Length += count;
            return this;
        }

        public MsgPackWriter List(int count) =>
            count < 16 ? Byte(0x90 | count) : Sized(count, -1, 0xDC, 0xDD);

        /// <summary>A map of <paramref name="count"/> pairs; write key, value, key, value after it.</summary>
        public MsgPackWriter Map(int count) =>
            count < 16 ? Byte(0x80 | count) : Sized(count, -1, 0xDE, 0xDF);

        MsgPackWriter Sized(int count, int code8, int code16, int code32)
        {
            if (count <= 0xFF && code8 >= 0) return Byte(code8).BigEndian((ulong)count, 1);
            if (count <= 0xFFFF) return Byte(code16).BigEndian((ulong)count, 2);
            return Byte(code32).BigEndian((ulong)count, 4);
        }

        MsgPackWriter Byte(int value)
        {
            Reserve(1);
            Buffer[Length++] = (byte)value;
            return this;
        }

        MsgPackWriter BigEndian(ulong value, int bytes)
        {
            Reserve(bytes);
            for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8)
                Buffer[Length++] = (byte)(value >> shift);
            return this;
        }

        void Reserve(int bytes)
        {
            if (Length + bytes <= Buffer.Length) return;
            var larger = new byte[Math.Max(Buffer.Length * 2, Length + bytes)];
            System.Buffer.BlockCopy(Buffer, 0, larger, 0, Length);
            Buffer = larger;
        }
    }
}
