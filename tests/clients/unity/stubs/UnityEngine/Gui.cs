using System;

namespace UnityEngine
{
    public enum EventType { Layout, Repaint }
    public enum ScaleMode { StretchToFill, ScaleAndCrop, ScaleToFit }

    public sealed class Event
    {
        public static Event current { get; } = new Event();
        public EventType type { get; set; } = EventType.Repaint;
    }

    public sealed class GUIContent
    {
        public string text { get; set; }
        public GUIContent(string text) { this.text = text; }
    }

    public sealed class GUIStyle { }
    public sealed class GUILayoutOption { }

    public static class GUI
    {
        public static void DrawTexture(Rect area, Texture texture, ScaleMode mode, bool alphaBlend) { }
        public static void Label(Rect area, string text) { }
        public static float HorizontalSlider(Rect area, float value, float left, float right) => value;
        /// <summary>Text of the button that is pressed; each one once.</summary>
        public static string Pressed;
        public static bool Button(Rect area, string text)
        {
            if (text != Pressed) return false;
            Pressed = null;
            return true;
        }
    }

    public static class GUILayout
    {
        /// <summary>Text of the button that is pressed; each one once.</summary>
        public static string Pressed;
        public static bool Button(string text, params GUILayoutOption[] options)
        {
            if (text != Pressed) return false;
            Pressed = null;
            return true;
        }
        public static GUILayoutOption Width(float width) => new GUILayoutOption();
    }
}
